"""The page of the gateway: static files without a build step, and the routes that serve them."""

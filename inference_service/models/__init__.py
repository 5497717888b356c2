"""The loaded avatars: loading, replacing and unloading their networks."""

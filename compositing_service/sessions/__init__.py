"""Live sessions: sound goes in as it comes, frames come out on a clock. docs/sessions.md has the rules."""

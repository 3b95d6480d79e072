"""What stations tell the provider about certificates that may be activated: one sealed line each."""

"""Board families, one driver a file; loaded by entry point, only when a product names them."""

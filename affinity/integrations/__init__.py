"""What other projects' programs need to bind themselves. Imported only when used; the core imports none of them."""

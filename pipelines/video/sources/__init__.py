"""Where videos come from: one module per layout in which they are published, and one that draws them."""

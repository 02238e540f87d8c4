"""A trained model over many images: from anywhere, resumed exactly, each accounted for."""

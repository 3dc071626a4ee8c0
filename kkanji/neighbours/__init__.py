"""The nearest training images of an image, which vote beside the network, and what is near to none of them."""

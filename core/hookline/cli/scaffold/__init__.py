"""Templates of plugin distributions, and the folder made from them."""

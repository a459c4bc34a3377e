"""Run trained networks: images, tiles, what a network costs, and how good it is. Knows no option."""

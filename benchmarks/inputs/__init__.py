"""What artists put into a folder: every kind of file, broken ones by the hundred, and what the node says of them."""

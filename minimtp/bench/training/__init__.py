"""`minimtp bench train`: training speed next to PyTorch."""

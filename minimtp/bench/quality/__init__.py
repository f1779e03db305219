"""`minimtp bench quality`: what quantization costs, and how much each method recovers."""

"""`minimtp bench quality`: the quality lost to quantization, and how much each method recovers."""

"""Other programs that minimtp is measured next to."""

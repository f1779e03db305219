"""Other programs that minimtp is compared with."""

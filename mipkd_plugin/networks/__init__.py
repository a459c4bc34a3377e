"""Networks with taps: features out, features in again. Knows no option and no method."""

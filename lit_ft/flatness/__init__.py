"""Sharpness and flatness: SAM and its variants, penalties, weight averages, the edge of stability."""

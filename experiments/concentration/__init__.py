"""MC: empirical concentration of image data."""

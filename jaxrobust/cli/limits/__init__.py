"""The commands `jaxrobust limits`: what was possible, in theory and on data."""

"""What is proven of models, rather than attacked."""

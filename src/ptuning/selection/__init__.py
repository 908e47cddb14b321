"""Selection of trainable parameters: by module, layers and subset."""

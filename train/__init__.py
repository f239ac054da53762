"""Training, evaluation and export of jscan's models. It may import jscan; jscan never imports it."""

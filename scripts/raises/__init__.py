"""Which of the places that raise an error some test reaches: `python -m scripts.raises`."""

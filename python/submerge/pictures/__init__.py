"""What pictures are made of: elements, colours, drawings, and the map of a model's blocks.

Used by the picture of an analysis and by the report's page alike. Nothing here imports more than
the standard library; a PNG wants Pillow.
"""

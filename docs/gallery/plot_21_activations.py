"""
Feature maps of one image
=========================

From the input to the output, and how many maps stay dark: ``featbank show activations``.
"""

# %%
import featbank
from featbank.datasets import decode_image

backbone = featbank.load_backbone("minivgg")
image = backbone.preprocessing.apply_geometry(decode_image(featbank.open_dataset("digits").read(3)))
display = featbank.ActivationsDisplay.from_image(backbone, image, ["block1_pool", "block3_pool"], maps=8)
display.plot()

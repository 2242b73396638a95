"""
Filters of the first convolution
================================

On one scale, and each on its own: ``featbank show filters``.
"""

# %%
import featbank

display = featbank.FiltersDisplay.from_backbone(featbank.load_backbone("minivgg"))
display.plot()

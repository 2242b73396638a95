"""
Networks beside each other
==========================

A trained network and the same with random weights: ``featbank show filters --beside minivgg=random``.
"""

# %%
import featbank

networks = [featbank.load_backbone("minivgg"), featbank.load_backbone("minivgg", weights="random")]
display = featbank.BesideDisplay([featbank.FiltersDisplay.from_backbone(one) for one in networks])
display.plot()

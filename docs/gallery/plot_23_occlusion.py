"""
Where the evidence lies
=======================

A patch slides over an image, and the probability of its class is watched: ``featbank show occlusion``.
"""

# %%
import featbank
from featbank.prediction import occlude

bank = featbank.open_bank(
    featbank.extract(
        "digits",
        backbone="minivgg",
        cuts=["block2_pool", "block3_pool", "block5_pool"],
        split="40,10,40",
        limit=900,
    ).bank
)
run = featbank.fit_heads(bank, cuts=["block3_pool"], heads=["logreg"], samples_per_class="32", repeats=1).run
display = occlude(run)
display.plot()

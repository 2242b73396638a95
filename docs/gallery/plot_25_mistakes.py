"""
What a head gets wrong
======================

Misclassified test images with the true and the predicted class, worst first: ``featbank show mistakes``.
"""

# %%
import featbank

bank = featbank.open_bank(
    featbank.extract(
        "digits",
        backbone="minivgg",
        cuts=["block2_pool", "block3_pool", "block5_pool"],
        split="40,10,40",
        limit=900,
    ).bank
)
run = featbank.fit_heads(bank, cuts=["block2_pool"], heads=["logreg"], samples_per_class="16", repeats=1).run
display = featbank.MistakesDisplay.from_run(run, most=12)
display.plot()

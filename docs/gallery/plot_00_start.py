"""
Start, as a notebook
====================

The steps of the start page from Python: push images once, ask the bank, read the answer. Banks, results,
curves and runs show themselves.
"""

# %%
# Push 900 handwritten digits once through ``minivgg`` and keep what comes out at three cuts. Of each class
# the first 40 images are for training, the next 10 for validation, the next 40 for the test. Run it again,
# and nothing is pushed.
import featbank

extracted = featbank.extract(
    "digits",
    backbone="minivgg",
    cuts=["block2_pool", "block3_pool", "block5_pool"],
    split="40,10,40",
    limit=900,
)
bank = featbank.open_bank(extracted.bank)
bank

# %%
# A cut of a bank is an array on disk; rows are read when they are asked for.
X, y = bank.load("block5_pool", split="train")
X.shape, X.dtype, y[:5]

# %%
# Fit a logistic head on 4, 8, 16 and 32 images of each class, three draws each, and score it on the test
# images.
fitted = featbank.fit_heads(bank, heads=["logreg"], samples_per_class="4..32", repeats=3)
fitted.run

# %%
# Which cut and head, and how many labels?
print(featbank.answer_of(fitted.result))

# %%
# The figure.
display = featbank.CurveDisplay.from_run(fitted.run)
display.plot()

# %%
# One curve is an object: scores by size and draw.
curve = fitted.result.curve("block3_pool", "logreg")
curve

# %%
# Every fit, for pandas.
fitted.run.to_frame()[["cut", "head", "n_per_class", "repeat", "top1", "val_top1"]].head()

# %%
# The cuts beside each other, with paired differences to the best.
featbank.compare(fitted.result)

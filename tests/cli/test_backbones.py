"""``featbank backbones`` and ``featbank cuts``."""

from __future__ import annotations


def test_backbones(call):
    done = call("backbones")
    assert done.code == 0
    (line,) = [line for line in done.out.splitlines() if line.startswith("vgg16 ")]
    assert line.split()[1:7] == ["224", "138", "M", "15.5", "G", "block1_pool"]
    rows = {row["backbone"]: row for row in call("backbones", "--json").json["backbones"]}
    assert rows["vgg16"]["n_parameters"] == 138_357_544
    assert rows["inception_v3"]["image_size"] == 299
    assert {"alexnet", "googlenet", "resnet152", "mobilenet_v2", "squeezenet1_1", "minivgg"} <= set(rows)


def test_backbones_of_a_family(call):
    rows = call("backbones", "vgg1?", "--family", "torchvision", "--json").json["backbones"]
    assert [row["backbone"] for row in rows] == ["vgg11", "vgg13", "vgg16", "vgg19"]
    done = call("backbones", "--family", "torchvison")
    assert done.code == 2
    assert done.message.startswith("unknown family of backbones 'torchvison'; known: 'torchvision', ")


def test_cuts(call):
    done = call("cuts", "vgg16")
    assert done.code == 0
    (line,) = [line for line in done.out.splitlines() if line.startswith("block4_pool ")]
    assert line.split() == [
        *("block4_pool", "pool4,", "conv-4", "features.23", "512x14x14", "100352", "14", "G", "201", "kB"),
        *("gap", "gmp", "gem3", "1.02", "kB,", "grid2", "4.1", "kB"),
    ]
    assert done.out.rstrip().endswith("from logits")
    found = call("cuts", "vgg16", "--json").json
    assert found["backbone"] == "vgg16"
    (row,) = [one for one in found["cuts"] if one["name"] == "block5_pool"]
    assert (row["node"], row["shape"]) == ("features.30", [512, 7, 7])


def test_cuts_at_another_size(call):
    rows = {one["name"]: one for one in call("cuts", "vgg16", "--image-size", 128, "--json").json["cuts"]}
    assert rows["block4_pool"]["shape"] == [512, 8, 8]


def test_an_unknown_backbone(call):
    done = call("cuts", "vgg17")
    assert done.code == 2
    assert done.message.startswith("unknown backbone 'vgg17'; known: 'vgg19', 'vgg16', 'vgg13', 'vgg11', ")

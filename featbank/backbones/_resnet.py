"""ResNets: a stem, four stages, global average pooling, one fully connected layer."""

from __future__ import annotations

from featbank.backbones.spec import BackboneSpec, Cut

__all__ = ["SPECS"]

#: Multiply-adds of one 224x224 image up to the end of each of the four stages.
_STAGE_MACS = {
    "resnet18": (580_435_968, 991_477_760, 1_402_519_552, 1_813_561_344),
    "resnet34": (811_646_976, 1_685_110_784, 3_020_996_608, 3_663_249_408),
    "resnet50": (785_956_864, 1_813_561_344, 3_277_897_728, 4_087_136_256),
    "resnet101": (785_956_864, 1_813_561_344, 6_990_118_912, 7_799_357_440),
    "resnet152": (785_956_864, 2_687_025_152, 10_702_340_096, 11_511_578_624),
}
_N_PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}
#: Blocks per stage, for the names Keras gives the end of a stage; Keras has no ResNet of basic blocks.
_KERAS_BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}


def _resnet(name: str) -> BackboneSpec:
    widths = (256, 512, 1024, 2048) if name in _KERAS_BLOCKS else (64, 128, 256, 512)
    cuts = [Cut("stem", "maxpool", (64, 56, 56), ("pool1_pool",), 118_013_952)]
    for stage, width in enumerate(widths, start=1):
        aliases = [f"res{stage + 1}"]
        if name in _KERAS_BLOCKS:
            aliases.append(f"conv{stage + 1}_block{_KERAS_BLOCKS[name][stage - 1]}_out")
        side = 112 // 2**stage
        macs = _STAGE_MACS[name][stage - 1]
        cuts.append(Cut(f"layer{stage}", f"layer{stage}", (width, side, side), tuple(aliases), macs))
    deepest = _STAGE_MACS[name][-1]
    cuts.append(Cut("avgpool", "flatten", (widths[-1],), ("avg_pool",), deepest))
    cuts.append(Cut("logits", "fc", (1000,), (), deepest + widths[-1] * 1000))
    return BackboneSpec(
        name,
        "resnet",
        tuple(cuts),
        default_image_size=224,
        n_parameters=_N_PARAMETERS[name],
        head_key="fc.weight",
    )


SPECS: tuple[BackboneSpec, ...] = tuple(_resnet(name) for name in _N_PARAMETERS)

"""Part of the stand-in for PaddlePaddle."""

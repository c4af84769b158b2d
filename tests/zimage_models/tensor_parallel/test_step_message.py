import torch

from zimage_models.models.ranks import Verb
from zimage_models.tensor_parallel.step_message import (
    HEADER_NUMBERS,
    empty_payload,
    layouts_of,
    payload_views,
    read_header,
    write_header,
)


def test_a_call_arrives_as_it_was_sent() -> None:
    tensors = [
        torch.randn(3, 16, 8, 12),
        torch.rand(3),
        # Of an odd number of bytes' worth, so that what follows has to be aligned.
        torch.randn(3, 7, 5).bfloat16(),
        torch.randn(2, 3).t(),
        torch.arange(6, dtype=torch.int32).view(2, 3),
        # A request without references has none of some.
        torch.randn(2, 0, 5),
    ]
    header = write_header(Verb.TOKENS, tensors)
    assert (header.dtype, header.shape) == (torch.int64, (HEADER_NUMBERS,))
    payload = empty_payload(layouts_of(tensors), torch.device("cpu"))
    for view, tensor in zip(payload_views(payload, layouts_of(tensors)), tensors, strict=True):
        view.copy_(tensor)
    verb, layouts = read_header(header)
    assert verb is Verb.TOKENS
    for arrived, tensor in zip(payload_views(payload, layouts), tensors, strict=True):
        assert arrived.dtype == tensor.dtype
        assert torch.equal(arrived, tensor)


def test_a_call_without_tensors_is_a_header() -> None:
    assert read_header(write_header(Verb.STOP, [])) == (Verb.STOP, [])

from dataclasses import replace

import pytest

from deployments.access.kept_images import ImageTicket, KeptImages
from deployments.errors import UnknownImage
from tests.deployments.manual_clock import ManualClock


def keep(images: KeptImages, data: bytes) -> ImageTicket:
    return images.keep(data, media_type="image/png", suffix=".png")


def test_an_image_is_found_until_it_expires() -> None:
    clock = ManualClock()
    images = KeptImages(max_bytes=100, keep_s=60, clock=clock)
    ticket = keep(images, b"one")
    clock.now += 59
    found = images.find(ticket)
    assert found is not None
    assert (found.data, found.media_type, found.expires_at) == (b"one", "image/png", ticket.expires_at)
    clock.now += 1
    assert images.find(ticket) is None
    assert images.num_bytes == 0


def test_the_oldest_leave_when_there_is_no_room() -> None:
    images = KeptImages(max_bytes=100, keep_s=60)
    tickets = [keep(images, bytes(40)) for _ in range(4)]
    assert [images.find(ticket) is not None for ticket in tickets] == [False, False, True, True]
    assert images.num_bytes == 80
    assert images.find(keep(images, bytes(101))) is None
    assert images.num_bytes == 0


@pytest.mark.parametrize("change", [{"name": "another.png"}, {"expires_at": 2**40}, {"signature": "é"}])
def test_a_ticket_can_not_be_changed(change: dict[str, object]) -> None:
    images = KeptImages(max_bytes=100, keep_s=60)
    ticket = keep(images, b"one")
    with pytest.raises(UnknownImage):
        images.find(replace(ticket, **change))


def test_a_ticket_of_another_store_is_unknown() -> None:
    with pytest.raises(UnknownImage):
        KeptImages(max_bytes=100, keep_s=60).find(keep(KeptImages(max_bytes=100, keep_s=60), b"one"))

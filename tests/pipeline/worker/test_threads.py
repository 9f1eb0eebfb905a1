"""What the threads of a worker share."""

from __future__ import annotations

import threading
import time

from tsm_fast.pipeline.worker.threads import Room


def test_no_more_is_taken_than_there_is_room() -> None:
    """Twelve threads with 40 of 100 each: two at a time; one with 500 has all of it alone."""
    room, guard = Room(100), threading.Lock()
    held: list[int] = []
    most: list[int] = []

    def work(size: int) -> None:
        with room.shared() as take:
            take(size)
            with guard:
                held.append(size)
                most.append(sum(held))
            time.sleep(0.01)
            with guard:
                held.remove(size)

    threads = [threading.Thread(target=work, args=(500 if number == 5 else 40,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(set(most)) in ([40, 80, 500], [80, 500], [40, 500])

"""Work on a task in rounds: notes, demonstrations. One file a method; this table makes them known."""

from kshot.core.plugins import Room
from kshot.methods.contracts import Loop

LOOPS = Room("loop", Loop, {"notes": "kshot.methods.loops.notes:Notes"})

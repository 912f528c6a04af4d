"""People: a page on which they compare two responses, and what becomes of their votes.

It loads no torch, and no web server before a page is served.

    pairs      what people are asked about, and in which order
    store      what they said: a log in an SQLite file
    desk       who is asked about which pair next
    guard      which requests come in
    showing    texts of strangers as a page shows them
    server     the pages and what they ask for
    serving    the address, its links, and how it ends
    exports    votes as lines, under pseudonyms
    figures    how the votes stand, for the organiser
    labels     votes become ballots
    arena      votes become evidence
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

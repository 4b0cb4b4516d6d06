"""``autoscaler doctor``: what keeps this host and its groups from working, before the first domain is started.

Three kinds of modules: ``gather_*`` look (files, sockets, libvirt, short programs) and judge nothing; ``judge_*`` are
pure functions from what was gathered to findings; ``run`` puts them together, ``page`` prints. Nothing is changed,
unless ``--prove`` asks to boot guests of our own.
"""

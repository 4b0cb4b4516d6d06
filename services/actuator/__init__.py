"""The hands: brings every group from what libvirt shows to what is desired."""

"""Builds the image that template domains boot: a kernel and an initramfs with the demo application."""

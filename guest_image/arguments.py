"""The kernel command line under which the image boots fastest; docs/guest-boot.md has the measurements.

The actuator may add words of its own (``autoscaler.name=…``, see docs/guest-boot.md).
"""

# What the kernel does at each boot that this guest never uses. A name that a kernel does not know has no effect.
SKIPPED_INITCALLS = (
    "load_system_certificate_list",  # keys for module signatures, by RSA; the image's modules carry none
    "init_kprobe_trace",  # tracing
    "trace_eval_init",
    "cubictcp_register",  # reads the kernel's type information; TCP falls back to Reno on a link of one hop
    "init_encrypted",  # key types and file system encryption
    "fscrypt_init",
    "crypto_kdf108_init",  # a self-test
    "slab_sysfs_init",  # /sys is not mounted
)

FAST_BOOT = (
    "console=ttyS0",
    "quiet",
    "panic=-1",  # a crash ends the domain at once (with on_reboot=destroy)
    "cryptomgr.notests=1",
    "noreplace-smp",
    "no_timer_check",
    "mitigations=off",  # one program, all of it trusted
    "ipv6.disable=1",
    f"initcall_blacklist={','.join(SKIPPED_INITCALLS)}",
)


def kernel_arguments() -> str:
    """Return the words to put before the actuator's own."""
    return " ".join(FAST_BOOT)

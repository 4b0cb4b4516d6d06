"""The parts of ``common.hypervisor`` that know no libvirt: names, lines to a host, what is remembered."""

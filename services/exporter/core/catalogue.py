"""Every metric there is: its kind, its labels and its help. Nothing else is ever shown, and each is shown somewhere.

Names follow Prometheus' conventions: base units, ``_total`` for what only grows, ``_ratio`` for shares in [0, 1].
No label holds an identifier that grows without end: no UUID, no cause, no text for people.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Metric:
    """``kind`` is gauge or counter; ``labels`` in the order in which their values stand in a sample."""

    kind: str
    help: str
    labels: tuple[str, ...] = ()


def _gauge(text: str, *labels: str) -> Metric:
    return Metric("gauge", text, labels)


def _counter(text: str, *labels: str) -> Metric:
    return Metric("counter", text, labels)


METRICS: Final[dict[str, Metric]] = {
    # --- the group, as the decider wants it
    "autoscaler_group_desired_domains": _gauge("Domains that the group is to have", "group"),
    "autoscaler_group_min_domains": _gauge("Lower bound of the desired capacity", "group"),
    "autoscaler_group_max_domains": _gauge("Upper bound of the desired capacity", "group"),
    "autoscaler_group_scale_in_allowed": _gauge("1 if domains may be removed, 0 while data are missing", "group"),
    "autoscaler_group_replacement_allowed": _gauge("1 if sick domains may be replaced", "group"),
    "autoscaler_group_mode": _gauge("1 for the mode that the group is in, 0 for the others", "group", "mode"),
    "autoscaler_group_burst_quota_ratio": _gauge(
        "Share of one CPU for each vCPU while the group bursts; absent while it does not", "group"
    ),
    "autoscaler_group_cpu_ratio": _gauge("Mean CPU use of the ready domains, of what they are allotted", "group"),
    # --- the group, as libvirt shows it
    "autoscaler_group_ready_domains": _gauge("Domains in rotation and healthy", "group"),
    "autoscaler_group_domains": _gauge("Domains in each phase of their life", "group", "phase"),
    "autoscaler_group_tier_domains": _gauge("Domains by how they came to service, or wait for it", "group", "tier"),
    "autoscaler_group_owned_domains": _gauge("Domains that the group owns, in whatever phase", "group"),
    "autoscaler_group_ceiling_domains": _gauge("The most domains that the group may own (max + surge)", "group"),
    "autoscaler_group_breaker": _gauge("1 for the state that the breaker on starts is in", "group", "state"),
    "autoscaler_group_blocked": _gauge(
        "1 if something that does not pass by itself keeps the group from its desired capacity", "group"
    ),
    "autoscaler_group_unreachable_hosts": _gauge("Hosts of the group that do not answer", "group"),
    "autoscaler_group_boot_time_p50_seconds": _gauge("Median time from a start to serving", "group"),
    "autoscaler_group_boot_time_p95_seconds": _gauge("95th percentile of the time from a start to serving", "group"),
    "autoscaler_group_lead_time_p50_seconds": _gauge(
        "Median time from a decision to a domain in rotation", "group", "host", "tier"
    ),
    "autoscaler_group_lead_time_p95_seconds": _gauge(
        "95th percentile of the time from a decision to a domain in rotation", "group", "host", "tier"
    ),
    # --- the endpoint
    "autoscaler_haproxy_up": _gauge("1 if HAProxy answers for the group", "group"),
    "autoscaler_group_requests_total": _counter(
        "Requests that the endpoint carried, since the exporter began", "group"
    ),
    "autoscaler_group_request_errors_total": _counter("Requests that failed, since the exporter began", "group"),
    "autoscaler_group_queued_requests": _gauge("Requests that wait in HAProxy for a domain", "group"),
    "autoscaler_group_in_flight_requests": _gauge("Requests and connections that domains have", "group"),
    "autoscaler_group_queue_time_seconds": _gauge("Mean wait of the last 1024 requests in the queue", "group"),
    "autoscaler_group_response_time_seconds": _gauge("Mean response time of the last 1024 requests", "group"),
    "autoscaler_group_cut_requests_total": _counter("Requests cut off when a drain was ended by force", "group"),
    # --- one domain; gone with it
    "autoscaler_domain_cpu_ratio": _gauge("CPU use, of what the domain is allotted", "group", "host", "domain"),
    "autoscaler_domain_allotted_cpus": _gauge(
        "CPUs that the domain may use, its quota included", *("group", "host", "domain")
    ),
    "autoscaler_domain_healthy": _gauge("1 if HAProxy's check of the domain succeeds", "group", "host", "domain"),
    "autoscaler_domain_in_flight_requests": _gauge(
        "Requests and connections that the domain has", "group", "host", "domain"
    ),
    # --- what happened
    "autoscaler_decisions_total": _counter("Ticks of the decider", "group", "action", "limiter"),
    "autoscaler_scale_events_total": _counter("Changes of the desired capacity", "group", "direction"),
    "autoscaler_domain_failures_total": _counter("Domains given up as failed, by the actuator", "group"),
    "autoscaler_domain_ends_total": _counter("Domains that stopped serving, wanted or not", "group", "reason"),
    "autoscaler_drains_forced_total": _counter("Drains that ended at their deadline with requests in flight", "group"),
    "autoscaler_breaker_openings_total": _counter("Times that the breaker on starts opened", "group"),
    "autoscaler_events_total": _counter("Events, as 'autoscaler events' lists them", "name"),
    # --- hosts
    "autoscaler_host_reachable": _gauge("1 if libvirt on the host answers the monitor", "host"),
    "autoscaler_host_cpus": _gauge("CPUs of the host", "host"),
    "autoscaler_host_idle_cpus": _gauge("CPUs of the host that nobody used, mean over the interval", "host"),
    "autoscaler_sample_age_seconds": _gauge("Age of the newest sample; without one, since the exporter began", "host"),
    # --- services
    "autoscaler_service_up": _gauge("1 if the service said within three periods that its loop turns", "service"),
    "autoscaler_service_status_age_seconds": _gauge("Age of the newest sign of life", "service"),
    "autoscaler_service_start_time_seconds": _gauge("When the service started, in epoch seconds", "service"),
    "autoscaler_service_activity_total": _counter(
        "The service's own counters (messages dropped, gaps …)", "service", "kind"
    ),
    "autoscaler_service_info": _gauge("1, with the release that the service runs", "service", "release"),
    "autoscaler_build_info": _gauge("1, with release and protocol of the exporter", "release", "protocol"),
}

"""The audit trail: who brought, took, sent and saw which study (DICOM PS3.15 A.5, IHE ATNA).

An event is a note in a folder before anything else happens; one process of the host takes the
notes from there, in their order, and sends each as an XML message to a syslog collector over TLS
(RFC 5424, RFC 5425). A note is deleted when the collector has it: what was under way when the
connection broke is sent again. The name of the patient is not in it; the patient ID is, as
the standard wants it, so these notes never go anywhere but the folder and the collector.
"""

from limen.audit.event import Event, Kind
from limen.audit.trail import Trail

__all__ = ["Event", "Kind", "Trail"]

"""``limen conformance``: the DICOM Conformance Statement (PS3.2), from the code and the settings.

What peers meet comes from the tables that the processes work with: the receiver and the worker
print theirs (``scp.conformance``, ``worker.objects.conformance``), and this writes them down under the
heads of a statement by PS3.2. No table here repeats one of theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from limen import __version__, dimse
from limen.audit.message import told as audit_events
from limen.command import NOTICE
from limen.command.begin import read_settings
from limen.command.edge import OK
from limen.command.screen import say
from limen.config import Config
from limen.errors import LimenError

__all__ = ["SECTIONS", "conformance", "statement"]

SECTIONS = (
    "Conformance statement overview",
    "Introduction",
    "Implementation model",
    "Application entity: receiver",
    "Application entity: sender",
    "DICOMweb: sender",
    "Configuration",
    "Network communication",
    "Support of character sets",
    "Security",
    "Media storage",
    "Annexes",
)
"""The parts of the statement."""

_TIMEOUT_S = 60
_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"  # PS3.7 A.2.1


def conformance(args: argparse.Namespace) -> int:
    """Write the statement for the settings; as Markdown, or as a page that can be printed."""
    text = statement(read_settings(args), args.config)
    if args.html:
        text = _page(text)
    if args.output is None:
        say(text)
        return OK
    try:
        args.output.write_text(text + "\n", "utf-8")
    except OSError as exc:
        raise LimenError(f"{args.output} cannot be written ({exc.strerror})") from exc
    say(f"written: {args.output}")
    return OK


def statement(config: Config, file: Path | None = None) -> str:
    """Return the statement in Markdown.

    Parameters
    ----------
    file
        Where the settings come from, for the processes that read them too.

    Raises
    ------
    LimenError
        A process could not say what it does.
    """
    environment = os.environ | ({} if file is None else {"LIMEN_CONFIG": str(file)})
    receiver = _asked("scp.conformance", environment)
    objects = _asked("worker.objects.conformance", environment)
    parts = (
        _overview(receiver, objects),
        _introduction(),
        _model(),
        _receiver(config, receiver),
        _sender(config, receiver, objects),
        _dicomweb(config),
        _configuration(config),
        _network(),
        _character_sets(),
        _security(config, receiver),
        "None: Limen reads and writes no media.",
        _annexes(receiver, objects),
    )
    title = f"# DICOM Conformance Statement: Limen {__version__}\n\n{NOTICE}"
    numbered = zip(SECTIONS, parts, strict=True)
    text = [f"## {n}. {head}\n\n{part}" for n, (head, part) in enumerate(numbered, start=1)]
    return "\n\n".join([title, *text])


def _asked(module: str, environment: dict[str, str]) -> dict[str, Any]:
    """Return what a process says of itself."""
    told = subprocess.run(
        [sys.executable, "-m", module],
        env=environment,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if told.returncode:
        last = told.stderr.strip().rpartition("\n")[2]
        raise LimenError(f"{module} does not say what it serves ({last})")
    found: dict[str, Any] = json.loads(told.stdout)
    return found


# -- the parts -------------------------------------------------------------------------------------


def _overview(receiver: dict[str, Any], objects: dict[str, Any]) -> str:
    written = {row[1] for row in objects["objects"]}
    rows = [
        ("Verification", receiver["verification"][0], "yes, `limen echo`", "yes"),
        ("Storage Commitment Push Model", receiver["commitment"][0], "yes", "yes"),
        *((_name(uid), uid, "yes, what Limen makes", "yes") for uid in sorted(written)),
        ("every other storage SOP class (annex A)", "", "yes, `limen send`", "yes"),
        *((f"private: {uid}", uid, "no", "yes") for uid in receiver["private"]),
    ]
    return (
        "Limen is a node beside a PACS. It receives studies by C-STORE, keeps them byte for byte, has "
        "a model look at them, and sends what the model says into the study of the patient as DICOM "
        "objects, by C-STORE or STOW-RS. It offers no query, retrieve, worklist or print service.\n\n"
        + _table(("service", "SOP class", "as user (SCU)", "as provider (SCP)"), rows)
        + "\n\n"
        + _table(
            ("DICOMweb service", "as user agent", "as origin server"),
            [("Studies Service, Store transaction (STOW-RS, PS3.18 10.5)", "yes", "no")],
        )
    )


def _introduction() -> str:
    return (
        "**Audience.** Those who connect a modality or a PACS to Limen, and those who have to know "
        "whether both will understand each other.\n\n"
        "**Remarks.** Written by `limen conformance` from the tables that the code works with, and "
        "from the settings of this installation. Its content was compared with the clauses of the template (PS3.2 Annex N, 2024) on sequences and "
        "association parameters (N.7.2), status codes and failures (N.7.3), objects (N.9) and "
        "confidentiality (N.11); the order of its parts is not that of the template. Two conformance "
        "statements that agree make it likely, not certain, that two systems work together: try it, "
        "with `limen echo`, `limen send` and the tools of the peer.\n\n"
        "**Terms.** AE: application entity. SCU, SCP: user and provider of a service. Peer: the "
        "other side of an association. References are to the DICOM standard, parts 3 to 18.\n\n"
        "**Revision.** That of the software; CHANGELOG.md says what changed."
    )


def _model() -> str:
    return (
        "```\n"
        "modality, PACS  -- C-STORE, C-ECHO, N-ACTION -->  receiver  -- (spool, journal) -->  workers\n"
        "                <-- N-EVENT-REPORT ------------                                       |\n"
        "PACS            <-- C-STORE, N-ACTION, or STOW-RS ------------------------------------+\n"
        "                -- N-EVENT-REPORT -->  receiver, or the association that asked\n"
        "```\n\n"
        "- The **receiver** accepts associations. An instance is answered Success when its bytes and "
        "its name are on the disk, never earlier. A study is complete when nothing of it has come "
        "for the time that is configured; what comes later makes a new revision of it.\n"
        "- The **sender** opens an association for each study and PACS, sends the objects of a "
        "prediction at once and those of its explanation when they are there, and asks for storage "
        "commitment where that is configured.\n"
        "- Both have the same implementation, and the AE title that is configured.\n\n"
        "### Sequencing of real-world activities\n\n"
        "1. A peer opens an association with the receiver and sends the instances of a study (C-STORE); "
        "it may ask for storage commitment on it, or on a later one (N-ACTION).\n"
        "2. When the study is complete it is predicted. The report leaves at once: the sender opens "
        "an association with each PACS, sends (C-STORE), asks for storage commitment (N-ACTION) and "
        "releases it.\n"
        "3. A positive study is explained. Its objects follow on an association of their own, in the "
        "same way.\n"
        "4. The PACS reports (N-EVENT-REPORT) on the association that asked, or opens one with the "
        "receiver.\n"
        "5. Instances that come later make a new revision, which goes through 2 to 4 again. Objects "
        "of Limen that come back are kept and start nothing."
    )


def _receiver(config: Config, told: dict[str, Any]) -> str:
    scp = config.scp
    listed = "any" if scp.allow_any_peer else (", ".join(p.ae_title for p in scp.peer) or "any")
    where = (
        "anywhere"
        if scp.allow_any_peer
        else "the addresses of the listed peers"
        if scp.peer
        else "this machine only"
    )
    policies = [
        ("AE title", f"`{scp.ae_title}`; another called AE title is rejected"),
        ("calling AE titles", listed),
        ("from", where),
        ("associations at once", f"{scp.max_associations}, of one address "
                                 f"{scp.max_associations_per_address}"),
        ("application context name", _APPLICATION_CONTEXT),
        ("asynchronous operations", "one at a time (1, 1 is answered to any window)"),
        ("implementation class UID", told["implementation"][0]),
        ("implementation version name", told["implementation"][1]),
        ("largest PDU that is taken", f"{scp.max_pdu_bytes:,} bytes"),
        ("presentation contexts that are looked at", str(scp.max_contexts)),
        ("largest data set", f"{scp.max_instance_bytes:,} bytes"),
        ("time for A-ASSOCIATE-RQ (ARTIM)", f"{scp.handshake_timeout_s:g} s"),
        ("time for a PDU that has begun", f"{scp.pdu_timeout_s:g} s"),
        ("time without a PDU", f"{scp.idle_timeout_s:g} s"),
        ("longest association", f"{scp.association_timeout_s:g} s"),
    ]  # fmt: skip
    syntaxes = [(_name(uid), uid) for uid in told["storage_syntaxes"]]
    plain = ", ".join(_name(uid) for uid in told["verification"][1])
    return "\n\n".join(
        [
            "### Association policies",
            _table(("policy", "value"), policies),
            "Associations are rejected as follows (PS3.8 9.3.4):",
            _table(
                ("result", "source", "reason", "when"),
                [(*map(str, code), when) for code, when in told["rejections"]],
            ),
            "An address from which no peer may send is hung up on before a PDU is read.",
            "### Presentation contexts",
            f"Verification and Storage Commitment Push Model: {plain}. Every storage SOP class of "
            "annex A, and those of `scp.private_sop_classes`, in each of these transfer syntaxes; "
            "the first of a context that is served is accepted:",
            _table(("transfer syntax", "UID"), syntaxes),
            "**Extended negotiation** of storage is answered with level of support 2 (everything is "
            "kept), digital signatures level 3, and no coercion of elements. **Role selection** is "
            "answered: the requestor is the SCU, and for storage commitment also the SCP, so that a "
            "PACS may report on an association of its own. **User identity** is read and not used.",
            "### Verification as SCP, storage as SCP, storage commitment",
            _table(
                ("status", "answered to", "when"),
                [(status, ", ".join(to), when) for status, to, when in told["statuses"]],
            ),
            "Each but Success carries an Error Comment (0000,0902) of at most 64 characters. "
            "0xA700 passes: send the instance again later. 0xA900 and 0xC000 do not.\n\n"
            "Every element is kept, private ones too; nothing is coerced, and the data set is kept "
            "byte for byte in the transfer syntax it came in. The same bytes again are kept once and "
            "answered Success. Objects of Limen that come back are kept, and no study is analysed anew "
            "for them. Other bytes under the same SOP Instance UID are kept beside the first, "
            "and the result of the study says so.",
            "**Storage commitment as SCP.** An instance is vouched for when its bytes on the disk "
            "have the digest that they came with. The report (N-EVENT-REPORT, event type 1 or 2) "
            "goes out on the association that asked while that is open, else on one that Limen opens "
            "to the `port` of the `[[scp.peer]]`; it is tried again for a week. Retention may remove "
            "an instance after its result was delivered: it is not vouched for any more then.",
            _table(
                ("failure reason (0008,1197)", "when"),
                [(reason, when) for reason, when in told["failure_reasons"]],
            ),
            "### Communication failures as association acceptor",
            _table(("failure", "what the receiver does"), _failures_as_acceptor()),
        ]
    )


def _failures_as_acceptor() -> Iterable[tuple[str, str]]:
    left = "what was answered Success stays; what was on its way is removed"
    return (
        ("no A-ASSOCIATE-RQ in time", "the connection is closed"),
        ("a PDU that does not end in time, or none in time", f"A-ABORT; {left}"),
        ("a PDU or message that cannot be understood", f"A-ABORT; {left}"),
        ("the peer aborts, or the connection breaks", f"{left}; the study is complete when "
                                                      "nothing of it has come for the time that is configured"),
        ("an answer that the peer does not take", f"the association is given up; {left}"),
        ("an association that lasts too long", f"A-ABORT; {left}"),
    )  # fmt: skip


def _sender(config: Config, receiver: dict[str, Any], objects: dict[str, Any]) -> str:
    destinations = [
        (
            f"`{one.ae_title}` ({one.name})",
            f"`{one.calling_ae_title or config.scp.ae_title}`",
            ", ".join(one.objects),
            one.commitment,
            "yes" if one.tls else "no",
        )
        for one in config.destination.pacs
    ]
    names = {row[0]: row[1] for row in objects["objects"]}
    configured = (
        _table(("called", "as", "objects", "storage commitment", "TLS"), destinations)
        if destinations
        else "No PACS is configured (`[[destination.pacs]]`): nothing is sent."
    )
    return "\n\n".join(
        [
            "### Association policies",
            "One association for each study and PACS at a time, opened when a prediction or an "
            "explanation is there and released when its objects are sent. Largest PDU that is taken: "
            "16,382 bytes. One operation at a time. The implementation is that of the receiver. A "
            "PACS that does not answer is asked again by one delivery "
            f"every {config.queue.probe_s:g} s; one that rejects the AE title is asked no more until "
            "a person says so (`limen retry`).",
            configured,
            "### Presentation contexts",
            "Each SOP class of the objects to be sent, in one context for each of Explicit VR Little "
            "Endian and Implicit VR Little Endian: "
            + ", ".join(f"{_name(uid)} ({kind})" for kind, uid in names.items())
            + f". Beside them {_name(receiver['commitment'][0])} where commitment is asked for, and "
            f"{_name(receiver['verification'][0])} by `limen echo`.",
            "### Storage as SCU",
            "What the answer of the peer leads to:",
            _table(("status", "is read as", "what follows"), _dimse_rows()),
            "A report that is refused is replaced by a secondary capture with its words. The other "
            "objects of the study go on without one that is refused.",
            "### Storage commitment as SCU",
            "N-ACTION (action type 1) with what was just sent, on the same association. The report "
            "is taken there for a second, and afterwards by the receiver under its AE title and "
            "port, on an association of the PACS. What it does not keep, and only that, is sent "
            "again, five times at most. A PACS that was away is asked anew.",
            "### Communication failures as association initiator",
            _table(("failure", "what the sender does"), _failures_as_initiator(config)),
        ]
    )


def _failures_as_initiator(config: Config) -> Iterable[tuple[str, str]]:
    week = f"{config.queue.delivery_give_up_s / 86400:g} days"
    later = f"the delivery waits, and is tried again for {week}; what is noted as sent is not sent again"
    return (
        ("no connection, or none in time (`timeout_s`)", later),
        ("A-ASSOCIATE-RJ, permanent", "nothing more goes there until a person says so (`limen retry`)"),
        ("A-ASSOCIATE-RJ, transient", later),
        ("no answer to a message in time (`timeout_s`)", f"A-ABORT; {later}"),
        ("the peer aborts, or the connection breaks", later),
        ("no report of storage commitment", "the delivery stays *sent* or is *done*, as `commitment` "
                                            "says; it is asked again when the peer was away"),
    )  # fmt: skip


_FOLLOWS = {
    dimse.Kind.SUCCESS: "it is there",
    dimse.Kind.WARNING: "it is there; the warning is noted",
    dimse.Kind.PRESENT: "it is taken for there",
    dimse.Kind.TRANSIENT: "tried again with growing waits, five times at most",
    dimse.Kind.FULL: "everything for this peer waits, and is tried again for a week",
    dimse.Kind.PERMANENT: "refused; the rest of the study is sent",
}


def _dimse_rows() -> Iterable[tuple[str, str, str]]:
    for low, high, found in dimse.rows():
        status = f"0x{low:04X}" if low == high else f"0x{low:04X} to 0x{high:04X}"
        yield status, found.words, _FOLLOWS[found.kind]
    yield "any other", dimse.UNKNOWN.words, _FOLLOWS[dimse.UNKNOWN.kind]


def _dicomweb(config: Config) -> str:
    rows = [(one.name, ", ".join(one.objects)) for one in config.destination.dicomweb]
    configured = (
        _table(("name", "objects"), rows)
        if rows
        else "None is configured (`[[destination.dicomweb]]`)."
    )
    return (
        "Store transaction (PS3.18 10.5): `POST {service}/studies/{study}`, multipart/related, one "
        "part of application/dicom for each object, Explicit VR Little Endian. Failure reasons "
        "(0008,1197) are read as the statuses above. Basic authentication or a bearer token, over "
        "TLS; redirects are not followed. No storage commitment.\n\n" + configured
    )


def _configuration(config: Config) -> str:
    rows = [
        ("`scp.ae_title`", f"`{config.scp.ae_title}`"),
        ("`scp.host`, `scp.port`", f"{config.scp.host}, {config.scp.port}"),
        ("`scp.tls.port`", str(config.scp.tls.port or "closed")),
        ("`[[scp.peer]]`", f"{len(config.scp.peer)} listed"),
        ("`scp.quiet_s`, `scp.release_quiet_s`",
         f"{config.scp.quiet_s:g} s, {config.scp.release_quiet_s:g} s: when a study is complete"),
        ("`[[destination.pacs]]`", f"{len(config.destination.pacs)} configured"),
        ("`[[destination.dicomweb]]`", f"{len(config.destination.dicomweb)} configured"),
    ]  # fmt: skip
    return (
        "Everything is set in `config.toml` or by `LIMEN_` variables; nothing has to be compiled. "
        "AE titles are mapped to hosts and ports there, for each peer that reports are sent to and "
        "for each PACS.\n\n" + _table(("setting", "here"), rows)
    )


def _network() -> str:
    return (
        "TCP/IP, version 4 and 6, of the operating system; DICOM upper layer of PS3.8, over TLS "
        "where configured. Nagle's algorithm is off. Names of peers are looked up by the operating "
        "system."
    )


def _character_sets() -> str:
    return (
        "Received data sets are kept byte for byte, whatever their Specific Character Set "
        "(0008,0005). To show names, every character set of PS3.3 C.12.1.1.2 is read, with code "
        "extensions. Objects that are written take the encoded text of the patient and the study "
        "over with its character sets; where a text of Limen's own does not fit into them, the "
        "object is in UTF-8 (ISO_IR 192)."
    )


def _security(config: Config, told: dict[str, Any]) -> str:
    tls = config.scp.tls
    port = f"port {tls.port}" if tls.port else "closed; `scp.tls.port` opens it"
    return (
        f"**Receiver.** A port for TLS beside the plain one ({port}): BCP 195 (RFC 8996, 9325) TLS "
        f"Secure Transport Connection Profile, TLS 1.2 and 1.3; with 1.2 `{told['ciphers']}`. Client "
        f"certificates: {tls.client_certificate}; the subject of a peer's can be prescribed "
        "(`tls_subject`).\n\n"
        "**Sender.** TLS 1.2 or newer; the certificate of the peer and its host name are checked.\n\n"
        "**Who may send.** Calling AE title and address together, of a list. User identity "
        "negotiation is not used to decide.\n\n"
        "**De-identification, digital signatures.** None are made; signatures that are received stay "
        "valid, since no byte is changed.\n\n"
        f"**Audit trail.** Messages of PS3.15 A.5 ({', '.join(audit_events())}) go to "
        f"{_collector(config)}, by the SYSLOG-TLS profile (PS3.15 A.6: RFC 5424, RFC 5425). "
        "Messages that it receives: none. docs/audit.md lists the events.\n\n"
        "Attributes that identify a patient are in the spool, the journal, the results, the "
        "objects and the audit messages; in no log, metric or URL."
    )


def _collector(config: Config) -> str:
    audit = config.audit
    if audit.host:
        return f"a syslog collector at {audit.host}:{audit.port}"
    return "a syslog collector, where one is set (none; `audit.host`)"


def _annexes(receiver: dict[str, Any], objects: dict[str, Any]) -> str:
    made = [
        (
            kind,
            f"{_name(uid)} ({uid})",
            modality,
            str(number),
            f"{begin} - NOT FOR DIAGNOSTIC USE",
            what,
        )
        for kind, uid, modality, number, begin, what in objects["objects"]
    ]
    classes = [(_name(uid), uid) for uid in receiver["storage"]]
    sources = [
        (_keywords(objects["always"]), "the study", "always", "where the study has it"),
        (_keywords(objects["where_there"]), "the study", "where the study has it", "always"),
        ("Manufacturer", "`Limen`", "always", "always"),
        ("ManufacturerModelName, DeviceSerialNumber", "the model: name, SHA-256", "always", "always"),
        ("SoftwareVersions", "Limen and the model", "always", "always"),
        ("SOPInstanceUID, SeriesInstanceUID", "derived from study, model and result", "always",
         "always"),
        ("SeriesNumber, SeriesDescription, Modality", "as in the table above", "always", "always"),
        ("ContentDate, ContentTime", "the study", "always", "always"),
    ]  # fmt: skip
    return "\n\n".join(
        [
            "### A. Storage SOP classes",
            "Kept, whatever is in them; what no route takes is not analysed, and says so.",
            _table(("SOP class", "UID"), classes),
            "### B. Objects that are made",
            "Each lies in the study of the patient, in a series of its own for each phase of a "
            "revision. UIDs are derived from the content (2.25, PS3.5 B.2): the same study and the "
            "same model give the same objects. Content Date and Time are those of the study.",
            _table(
                ("", "SOP class", "modality", "series number", "series description", "what it is"),
                made,
            ),
            "Where their attributes come from:",
            _table(("attributes", "source", "presence of attribute", "presence of value"), sources),
            "Contributing Equipment Sequence says the same of Limen and the model.",
            "### C. Private attributes, codes and transfer syntaxes",
            "No private element, code, SOP class or transfer syntax is written into an object. In "
            "the spool, whose files leave the node only as they came, Private Information "
            "(0002,0102) holds the SHA-256 of the data set.",
            "### D. Attribute confidentiality",
            "Nothing is de-identified: the table of actions is empty. What names a patient in the "
            "objects is what the study names, taken over as annex B says.",
            "### E. Grayscale image consistency",
            "Limen displays no image on a calibrated device.",
        ]
    )


# -- how it is written -----------------------------------------------------------------------------


def _name(uid: str) -> str:
    from pydicom.uid import UID  # noqa: PLC0415 - --help waits for no dictionary

    return str(UID(uid).name)


def _keywords(names: Sequence[str]) -> str:
    return ", ".join(names)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; width: 100%; }
th, td { border: 1px solid #999; padding: .3rem .5rem; text-align: left; vertical-align: top;
  overflow-wrap: break-word; }
th { background: #eee; }
pre { overflow-x: auto; }
@media print { body { font-size: 10px; max-width: none; } tr, pre { break-inside: avoid; }
  h2 { break-before: page; } h2:first-of-type { break-before: auto; } }
"""


def _page(markdown: str) -> str:
    """Return the statement as one page that needs nothing else."""
    from markdown_it import MarkdownIt  # noqa: PLC0415 - only this needs it

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    title = escape(markdown.partition("\n")[0].lstrip("# "))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>"
    )

"""Where in an archive stands what others ask for under their own headings. It claims no compliance."""

from collections.abc import Sequence
from typing import Final

from securepfl.report.evidence.markdown import table

_YOURS: Final = "nothing: write it yourself"
_GDPR: Final = (
    ("(a) systematic description of the processing and its purposes", "README.md: The run; models/: Purpose, Data"),
    ("(a) legitimate interest pursued, where applicable", _YOURS),
    ("(b) necessity and proportionality in relation to the purposes", _YOURS),
    (
        "(c) risks to the rights and freedoms of data subjects",
        "README.md: What an attacker can gain, What was not shown; threats.md",
    ),
    ("(d) measures: safeguards, security, mechanisms", "settings.json; threats.md; README.md: The run, Consent"),
    ("(d) ... and to demonstrate compliance", "ledger.jsonl and ledger.md; audit.json; verify_evidence.py"),
)
_AI_ACT: Final = (
    ("1(a) intended purpose, provider, version", "models/: Purpose; README.md: The run (versions); the provider: you"),
    ("1(b) to (h) hardware, software, forms, interface, instructions", "README.md: The run (versions); the rest: you"),
    ("2(a) methods and steps of development", "settings.json; README.md: The run"),
    ("2(b) design specifications, 2(c) architecture", "settings.json (model); the rationale: you"),
    ("2(d) data requirements, datasheets", "models/: Data; provenance, selection, labelling and cleaning: you"),
    ("2(e) human oversight (Article 14)", _YOURS),
    ("2(f) pre-determined changes", _YOURS),
    (
        "2(g) validation and testing, metrics, signed reports",
        "audit.json (of privacy); models/: Metrics; the rest: you",
    ),
    ("2(h) cybersecurity measures", "threats.md; settings.json (encryption)"),
    ("3 monitoring, functioning and control", "models/: Limits; the rest: you"),
    ("4 appropriateness of the performance metrics", _YOURS),
    ("5 risk management (Article 9)", "threats.md and README.md as a source; the system: you"),
    ("6 changes through the lifecycle", "ledger.md: every run and release on these data, in order"),
    ("7 standards, 8 declaration of conformity, 9 post-market monitoring (Article 72)", _YOURS),
)
_NIST: Final = (
    ("2 The differential privacy guarantee: epsilon, delta", "README.md: What an attacker can gain; ledger.md"),
    ("2 ... the unit of privacy, adjacency", "README.md: Unit and adjacency"),
    ("2 ... mixing with other releases", "README.md: What was not shown"),
    ("3 Algorithms: mechanism, sampling, clipping, composition", "README.md: The run; settings.json; ledger.jsonl"),
    ("3 ... utility, accuracy, bias", "models/: Metrics, Limits; what they mean for groups of patients: you"),
    ("4 Deployment: trust and threat models", "threats.md"),
    ("4 ... implementation of the mechanism", "audit.json; README.md: What was not shown"),
    ("4 ... security, access control, collection of the data", "threats.md; what is beside this software: you"),
)


def headings_page(lacks: Sequence[str] = ()) -> str:
    """The page in Markdown. lacks: what it points to, and this archive has not, as sentences."""
    return (
        "\n\n".join(
            [
                "# Where it stands, by others' headings",
                "This archive is evidence for your own documents. It is none of them, it claims no compliance "
                'with any of them, and where it says "you" there is work left for a person.',
                *lacks,
                "## GDPR (Regulation (EU) 2016/679), Article 35(7): data protection impact assessment",
                table(("Article 35(7)", "in this archive"), _GDPR),
                "## AI Act (Regulation (EU) 2024/1689), Annex IV: technical documentation under Article 11(1)",
                table(("Annex IV", "in this archive"), _AI_ACT),
                "## NIST SP 800-226, Guidelines for Evaluating Differential Privacy Guarantees (March 2025)",
                table(("section", "in this archive"), _NIST),
            ]
        )
        + "\n"
    )

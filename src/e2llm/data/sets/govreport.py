"""GovReport (Huang et al. 2021, arXiv 2104.02112): long reports of two US agencies with their summaries."""

from e2llm.data.data_set import Conversion, Records, data_set


@data_set(
    "govreport",
    description="reports of US agencies to Congress, to summarize",
    licence="CC BY 4.0 (the authors' collection; the reports are works of the US government)",
    home="https://huggingface.co/datasets/ccdv/govreport-summarization",
    layout="a folder with document/{train,validation,test}*.parquet, with the columns report and summary",
    splits=("train", "validation", "test"),
    published_counts={"train": 17517, "validation": 973, "test": 973},
)
def govreport(run: Conversion) -> Records:
    """Yield one record per report with the summary that the agency wrote."""
    for path in run.files(f"document/{run.split}*.parquet", f"{run.split}*.parquet"):
        for number, row in run.parquet(path, "report", "summary"):
            report, summary = (row["report"] or "").strip(), (row["summary"] or "").strip()
            yield run.question(report, "Summarize the report.", [summary], id=f"{path.stem}:{number}")

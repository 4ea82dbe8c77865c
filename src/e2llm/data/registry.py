"""The data sets that `e2llm prepare` knows: adding one is one class and one line here."""

from e2llm.data.converter import Converter
from e2llm.data.covid_qa import CovidQAConverter
from e2llm.data.cuad import CuadConverter
from e2llm.data.factbook import FactbookConverter
from e2llm.data.fairytaleqa import FairytaleQAConverter
from e2llm.data.govreport import GovReportConverter
from e2llm.data.longbench_v2 import LongBenchV2Converter
from e2llm.data.medquad import MedQuadConverter
from e2llm.data.narrativeqa import NarrativeQAConverter
from e2llm.data.needles import NeedlesConverter
from e2llm.data.openstax import OpenStaxConverter
from e2llm.data.parquet import ParquetConverter
from e2llm.data.plain_text import PlainTextConverter
from e2llm.data.qamr import QamrConverter
from e2llm.data.qmsum import QMSumConverter
from e2llm.data.quality import QualityConverter
from e2llm.data.scisummnet import SciSummNetConverter
from e2llm.data.sgd import SgdConverter
from e2llm.data.squad import SquadConverter
from e2llm.data.squality import SqualityConverter
from e2llm.data.storybooks import StorybooksConverter
from e2llm.data.tinystories import TinyStoriesConverter
from e2llm.data.triviaqa import TriviaQAConverter

DATASETS: dict[str, type[Converter]] = {
    converter.name: converter
    for converter in (
        PlainTextConverter,
        ParquetConverter,
        TinyStoriesConverter,
        StorybooksConverter,
        FairytaleQAConverter,
        QamrConverter,
        SquadConverter,
        QMSumConverter,
        SqualityConverter,
        CovidQAConverter,
        CuadConverter,
        SciSummNetConverter,
        GovReportConverter,
        QualityConverter,
        NarrativeQAConverter,
        TriviaQAConverter,
        LongBenchV2Converter,
        SgdConverter,
        FactbookConverter,
        MedQuadConverter,
        OpenStaxConverter,
        NeedlesConverter,
    )
}

"""Score assets: the champion's daily device risk. Here: inputs. Not here: what a score means (``learning.scoring``)."""

from datetime import UTC, datetime

import dagster as dg
import polars as pl

from lims_platform.assets.common import reads, table_asset
from lims_platform.contracts.tables import TABLES
from lims_platform.settings import settings


@dg.asset(
    **table_asset(
        "device_risk_scores",
        kinds={"onnx", "deltalake"},
        group="scores",
        ins={"features": reads("device_failure_features")},
        deps=[dg.AssetKey(["models", "device_failure_model"])],
    )
)
def device_risk_scores(context: dg.AssetExecutionContext, features: pl.LazyFrame) -> pl.DataFrame:
    from lims_platform.learning.registry import RegistryError, load_champion
    from lims_platform.learning.scoring import score

    try:
        champion = load_champion(settings().tracking_uri)
    except RegistryError as error:
        context.log.warning(f"no device is scored: {error}")
        return TABLES["device_risk_scores"].empty()
    # a day that is not over would be scored on half its results
    whole_days = features.filter(pl.col("as_of_date") < settings().today).collect()
    return score(whole_days, champion.scorer, champion.name, champion.version, datetime.now(UTC))


SCORE_ASSETS = [device_risk_scores]

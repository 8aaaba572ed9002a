"""What is found on a slide once its blocks are done: the certificate, tissue, objects and score, as one row."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.collection.job import CollectionJob
from engine.collection.record import MEASURES
from engine.errors import TissueError, VerifyError
from engine.objects.recipe import Method, Recipe
from engine.prepare import Prepared
from engine.run import conclude, is_done
from engine.slides import draw_cells, slide_facts, slide_objects, slide_score
from engine.storage.output import open_output


def conclude_slide(job: CollectionJob, slide: int, prepared: Prepared) -> None:
    """Certify and measure a slide, and keep what was found in its output; objects and scores of whole slides only.

    Raises:
        VerifyError: If the seam certificate does not hold.
    """
    url, entry, plan = job.output(slide), job.entries[slide], prepared.plan
    output = open_output(url)
    certificate = conclude(prepared, output, n_certified=job.n_certified)
    found = slide_facts(plan, output)
    if certificate is not None and certificate.n_tiles:
        found["seam_difference"] = max(seams.max_difference for seams in certificate.outputs.values())
    if plan.mask is not None and prepared.mask is not None:
        path = Path(job.folder) / f"{entry.id}-tissue.png"
        with suppress(TissueError):  # there is no picture of what is no RGB slide
            draw_cells(path, plan.source.url, plan.mask.method, cells=prepared.mask.cells, cell=plan.mask.cell)
    if is_done(output):
        found |= _objects(job, url) | _score(job, url)
    output.record(**{MEASURES: found})
    if certificate is not None and certificate.n_tiles and not certificate.holds:
        raise VerifyError(f"the seam certificate of '{url}' does not hold: see 'engine report {url}'. Do it anew.")


def _objects(job: CollectionJob, url: str) -> dict[str, Any]:
    if job.objects is None:
        return {}
    wish = job.objects
    recipe = Recipe(volume=wish.output, method=Method(wish.method), min_area_um2=wish.min_area_um2)
    return {"n_objects": slide_objects(url, recipe, measured=wish.measured).n_objects}


def _score(job: CollectionJob, url: str) -> dict[str, Any]:
    if job.score is None:
        return {}
    scored = slide_score(url, job.score.aggregator, features=job.score.output)
    found: dict[str, Any] = {f"score_{i}": round(p, 6) for i, p in enumerate(scored.probabilities)}
    return {"score": round(scored.probabilities[-1], 6), **found, "n_instances": scored.n_instances}

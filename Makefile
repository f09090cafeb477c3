# `make help` lists the targets. Everything runs in .venv, which `make setup` makes with uv, or with venv and pip.
VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
# The first supported interpreter that is there; set PYTHON_FOR_VENV to choose another.
PYTHON_FOR_VENV ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
SSLAM := $(VENV)/bin/sslam
RUN_ID ?= $(shell date +%Y%m%d-%H%M%S)
# One value for all of this make, also where it comes from the clock.
RUN_ID := $(RUN_ID)
# Test processes; each is single-threaded.
WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test check format clean eval-esc50 eval-audioset eval-speech-commands eval-polyphonic eval-all \
	eval-separation contrastive-table1 contrastive-table2 contrastive-table3 contrastive-table4 contrastive-table5 contrastive-others claims

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-zA-Z0-9_-]*:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## make .venv with everything in it (again only when pyproject.toml has changed) and check it
	@$(PYTHON) -m sslam.environment

$(INSTALLED): pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
		set -ex; \
		[ -x $(PYTHON) ] || uv venv --python '>=3.11,<3.14' $(VENV); \
		uv pip install --python $(PYTHON) --editable '.[dev]'; \
	else \
		[ -n "$(PYTHON_FOR_VENV)" ] || { echo "sslam needs Python 3.11, 3.12 or 3.13, or uv; none was found. Install one, or run 'make setup PYTHON_FOR_VENV=/path/to/python'." >&2; exit 1; }; \
		set -ex; \
		[ -x $(PYTHON) ] || $(PYTHON_FOR_VENV) -m venv $(VENV); \
		$(PYTHON) -m pip install --disable-pip-version-check --editable '.[dev]'; \
	fi
	@touch $@

quickstart: setup ## set up and run the main job small on the built-in scenes: SSLAM pre-training, then what it has learnt
	$(SSLAM) fit --config experiments/pretrain.yaml --config experiments/overrides/quickstart.yaml --run_id $(RUN_ID)
	$(SSLAM) evaluate --recipe experiments/evaluation/quickstart.yaml --run_id quickstart-$(RUN_ID) --random --no_baselines \
		--checkpoint "stage 1=runs/quickstart/$(RUN_ID)/checkpoints/step=00000280.ckpt" \
		--checkpoint SSLAM=runs/quickstart/$(RUN_ID)/checkpoints/last.ckpt

# Evaluation of CKPT, with random weights and plain features beside it, which take as many runs each (NO_BASELINES=1 leaves
# them out): make eval-esc50 CKPT=runs/pretrain/RUN/checkpoints/last.ckpt
# MORE goes to every run, such as MORE='--data.root DIR --trainer.accelerator cpu'; RUN_ID=... goes on with an evaluation.
evaluate = @[ -n '$(CKPT)' ] || { echo "Pass the checkpoint: make $@ CKPT=runs/pretrain/RUN/checkpoints/last.ckpt" >&2; exit 2; }; \
	set -x; $(SSLAM) evaluate --checkpoint '$(CKPT)' $(if $(NO_BASELINES),--no_baselines) --run_id $@-$(RUN_ID) $(foreach task,$(1),--task $(task)) \
	--method linear_probe --method fine_tune $(MORE)
POLYPHONIC := soundscapes spass idmt_desed_fl urban_sed

eval-esc50: setup ## ESC-50, five folds, linear probe and fine-tuning: CKPT=... (data/esc50, or MORE='--data.root DIR')
	$(call evaluate,esc50)

eval-audioset: setup ## AudioSet-20K and 2M: CKPT=... (data/audioset)
	$(call evaluate,audioset_20k audioset_2m)

eval-speech-commands: setup ## Speech Commands v1 and v2: CKPT=... (data/speech_commands_v0.01 and v0.02)
	$(call evaluate,speech_commands_12 speech_commands)

eval-polyphonic: setup ## built-in scenes, SPASS, IDMT-DESED-FL, URBAN-SED, those that are in data/: CKPT=...
	$(call evaluate,$(POLYPHONIC))

eval-all: setup ## everything above that is in data/: CKPT=...
	$(call evaluate,audioset_2m audioset_20k esc50 speech_commands_12 speech_commands $(POLYPHONIC))

eval-separation: setup ## MSi, 1S and MoMi of a separator on the built-in scenes: CKPT=... (FUSS: MORE='--config experiments/data/fuss.yaml')
	@[ -n '$(CKPT)' ] || { echo "Pass the checkpoint: make $@ CKPT=runs/separate/RUN/checkpoints/last.ckpt" >&2; exit 2; }
	$(SSLAM) test --config experiments/separate_soundscapes.yaml --model.separator null \
		--model.initial_checkpoint '$(CKPT)' --experiment $@ --run_id $(RUN_ID) --trainer.accelerator auto $(MORE)

# The rows of a table of the separation-contrastive paper, one after the other: contrastive.yaml with parts of contrastive/.
# AudioSet is in data/audioset, or MORE says where; PROCESSORS=runs/separate/RUN/checkpoints/kept has the separators. With
# RUN_ID=... interrupted rows go on.
row = $(SSLAM) fit --config experiments/contrastive.yaml $(foreach part,$(2),--config experiments/contrastive/$(part).yaml) \
	--experiment $(1) --run_id $(RUN_ID) --ckpt_path last $(3) $(MORE)
row_of_channels = $(call row,$(1),$(2),--model.processors.folder '$(PROCESSORS)' $(3))
needs_processors = @[ -n '$(PROCESSORS)' ] || { echo "Pass the folder of separators: make $@ PROCESSORS=runs/separate/RUN/checkpoints/kept" >&2; exit 2; }
define newline


endef

contrastive-table1: setup ## pre-train the rows of table 1: no separation
	$(call row,table1_similarity_sa,mix_vs_mix similarity no_temporal_proximity)
	$(call row,table1_similarity_tp,mix_vs_mix similarity no_spec_augment)
	$(call row,table1_similarity_tp_sa,mix_vs_mix similarity)
	$(call row,table1_coincidence_tp_sa,mix_vs_mix coincidence)

contrastive-table2: setup ## of table 2: comparisons, similarity (PROCESSORS=runs/separate/RUN/checkpoints/kept)
	$(needs_processors)
	$(call row_of_channels,table2_mix_vs_chan,similarity)
	$(call row_of_channels,table2_mix_vs_chan_no_sa,similarity no_spec_augment)
	$(call row_of_channels,table2_mix_vs_any,mix_vs_any similarity)
	$(call row_of_channels,table2_chan_vs_chan,chan_vs_chan similarity)

contrastive-table3: setup ## of table 3: comparisons, coincidence (PROCESSORS=...)
	$(needs_processors)
	$(call row_of_channels,table3_mix_vs_chan,coincidence)
	$(call row_of_channels,table3_chan_vs_chan,chan_vs_chan coincidence)

contrastive-table4: setup ## of table 4: processors and their combinations, similarity and both tasks (PROCESSORS=...)
	$(needs_processors)
	$(call row_of_channels,table4_s2_joint)
	$(foreach name,s1 f n s2_f s2_n s2_f_n,\
		$(call row_of_channels,table4_$(name)_similarity,processors_$(name) similarity)$(newline)\
		$(call row_of_channels,table4_$(name)_joint,processors_$(name))$(newline))

contrastive-table5: setup ## of table 5: embeddings of 1024 (PROCESSORS=...)
	$(needs_processors)
	$(call row_of_channels,table5_width_1024,processors_s2_f_n,--model.encoder.width 1024)

contrastive-others: setup ## of section 5.3 and appendix A: a cascade; four channels (FOUR=... of a separator with four outputs)
	$(needs_processors)
	@[ -n '$(FOUR)' ] || { echo "Pass the folder of separators with four outputs: make $@ FOUR=..." >&2; exit 2; }
	$(call row_of_channels,section53_cascade_n_s2_joint,cascade_n_s2)
	$(call row,appendix_four_channels_joint,,--model.processors.folder '$(FOUR)')
	$(call row,appendix_best_three_channels_joint,drop_worst_channel,--model.processors.folder '$(FOUR)')

# CLAIMS='file.yaml ...' names other claims, MORE='--scale FILE.yaml' another size; the same command goes on.
CLAIMS ?= experiments/claims/sslam_*.yaml

claims: setup ## test the claims of SSLAM, with a verdict of each: DATA=folder of recordings
	$(SSLAM) claims $(CLAIMS) $(if $(DATA),--data.root '$(DATA)') $(MORE)

test: setup ## set up and run all tests
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n $(WORKERS)

check: setup ## lint and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: setup ## rewrite the code in the project's style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist

// attune tune
#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/commands.h"
#include "client/cli/describe.h"
#include "client/cli/output.h"
#include "client/cli/text.h"
#include "client/cli/watch_job.h"
#include "common/error.h"
#include "common/resource_name.h"

namespace attune::cli {
namespace {

struct TuneArgs {
  std::string base, data, validation, method, name, display_name, output, tenant;
  std::vector<std::string> labels;
  int32_t priority = 0;
  bool watch = false, estimate = false;

  // LoRA.
  int32_t rank = 0;
  double alpha = 0;
  std::optional<double> dropout;
  std::vector<std::string> targets, modules_to_save;
  bool rslora = false, dora = false;
  double learning_rate_ratio = 0;
  // Soft prompt, prefix.
  int32_t virtual_tokens = 0;
  std::string init, init_text;
  // Text prompt.
  std::vector<std::string> instructions;
  std::optional<int32_t> max_examples;
  std::string example_selection, metric, calibrate;
  int32_t candidates = 0, rounds = 0;
  int64_t max_calls = 0, max_model_tokens = 0;
  double max_minutes = 0;
  // Partial.
  int32_t last_layers = 0;
  std::vector<std::string> parameters;
  bool biases_and_norms = false;

  // Start and objective.
  std::string start_from, teacher;
  bool dpo = false;
  double dpo_beta = 0, dpo_label_smoothing = 0, distillation_temperature = 0, neftune_alpha = 0;
  int32_t teacher_top_k = 0;
  std::optional<double> distillation_weight;
  // Options that go with another alone.
  std::vector<CLI::Option*> dpo_options, distillation_options;

  // Hyperparameters; zero or unset is "auto".
  double epochs = 0, learning_rate = 0, learning_rate_multiplier = 0;
  int64_t max_steps = 0, micro_batch_tokens = 0, eval_steps = 0, checkpoint_steps = 0;
  int32_t batch_size = 0, patience = 0, max_checkpoints = 0;
  std::optional<double> warmup_ratio, weight_decay, max_grad_norm, adam_beta1, adam_beta2, adam_epsilon;
  std::optional<int64_t> seed;
  bool no_keep_best = false;
  std::string schedule, precision, quantization, optimizer_state;

  // Data.
  std::string prompt_template, completion_template;
  int32_t max_tokens = 0;
  double validation_fraction = 0;
  bool train_on_prompt = false, split_long_texts = false;

  // Options that belong to some methods, to refuse them with another.
  std::vector<std::pair<CLI::Option*, std::vector<std::string>>> method_options;
};

void AddMethodOptions(CLI::App* command, TuneArgs* args) {
  auto belong_to = [args](const std::vector<std::string>& methods, CLI::Option* option) {
    option->group(absl::StrCat("Options of ", absl::StrJoin(methods, ", ")));
    args->method_options.emplace_back(option, methods);
    return option;
  };
  auto belongs_to = [&](const std::string& method, CLI::Option* option) { return belong_to({method}, option); };
  const std::vector<std::string> virtual_tokens = {"soft-prompt", "prefix"};
  belongs_to("lora", command->add_option("--rank", args->rank, "Rank, 1 to 512 (default: 16)"));
  belongs_to("lora", command->add_option("--alpha", args->alpha, "Scale numerator (default: twice the rank)"));
  belongs_to("lora", command->add_option("--dropout", args->dropout, "Dropout, 0 to below 1 (default: 0.05)"));
  belong_to({"lora", "ia3"}, AddRepeated(command, "--targets", args->targets,
                                         "Linears, comma-separated: q_proj, k_proj, v_proj, o_proj, gate_proj, "
                                         "up_proj, down_proj (default: all; ia3: k_proj, v_proj, down_proj); lora "
                                         "also embed_tokens, lm_head, and all-linear for the seven"))
      ->delimiter(',');
  belongs_to("lora", AddRepeated(command, "--modules-to-save", args->modules_to_save,
                                 "Train these whole, too, comma-separated: embed_tokens, lm_head (default: none)"))
      ->delimiter(',');
  belongs_to("lora", command->add_flag("--rslora", args->rslora, "Scale by the square root of the rank"));
  belongs_to("lora", command->add_flag("--dora", args->dora, "Train the lengths of weight rows apart from their directions (DoRA)"));
  belongs_to("lora", command->add_option("--learning-rate-ratio", args->learning_rate_ratio,
                                         "LoRA+: B's learning rate over A's, e.g. 16 (default: 1)"));
  belong_to(virtual_tokens, command->add_option("--virtual-tokens", args->virtual_tokens, "1 to 1024 (default: 20)"));
  belong_to(virtual_tokens, command->add_option("--init-text", args->init_text, "Start from this text's tokens"));
  belong_to(virtual_tokens, command->add_option("--init", args->init,
                                                "Start values: vocab (sampled tokens), text or random "
                                                "(default: text with --init-text, else vocab)"))
      ->check(CLI::IsMember({"vocab", "text", "random"}));
  belongs_to("partial", command->add_option("--last-layers", args->last_layers, "Train the last N decoder layers"));
  belongs_to("partial", AddRepeated(command, "--parameters", args->parameters,
                                    "Train parameters whose whole name matches this expression; may be repeated"));
  belongs_to("partial",
             command->add_flag("--biases-and-norms", args->biases_and_norms, "Train all biases and norm weights"));
}

void AddSearchOptions(CLI::App* command, TuneArgs* args) {
  auto add = [args](CLI::Option* option) {
    option->group("Options of text-prompt");
    args->method_options.emplace_back(option, std::vector<std::string>{"text-prompt"});
    return option;
  };
  add(AddRepeated(command, "--instruction", args->instructions, "Instruction to begin with; may be repeated; @FILE"));
  add(command->add_option("--max-examples", args->max_examples, "Most examples in the prompt, 0 to 64 (default: 8)"));
  add(command->add_option("--example-selection", args->example_selection,
                          "label-coverage, diverse or similar (by request, to its input; default: all are tried)"))
      ->check(CLI::IsMember({"label-coverage", "diverse", "similar"}));
  add(command->add_option("--candidates", args->candidates, "New prompts in each round, 2 to 200 (default: 12)"));
  add(command->add_option("--rounds", args->rounds, "Rounds, 1 to 20 (default: 3)"));
  add(command->add_option("--metric", args->metric, "label-accuracy, exact-match or loss (default: by the data)"))
      ->check(CLI::IsMember({"label-accuracy", "exact-match", "loss"}));
  add(command->add_option("--calibrate", args->calibrate,
                          "on or off: take off what labels the prompt favours (default: where it helps)"))
      ->check(CLI::IsMember({"on", "off"}));
  add(command->add_option("--max-calls", args->max_calls, "Most calls of the model (default: as many as it takes)"));
  add(command->add_option("--max-model-tokens", args->max_model_tokens, "Most tokens read and written (default: any)"));
  add(command->add_option("--max-minutes", args->max_minutes, "Most minutes of searching (default: any)"));
}

void AddObjectiveOptions(CLI::App* command, TuneArgs* args) {
  command->option_defaults()->group("Start and objective (default: the likelihood of the answers)");
  command->add_option("--start-from", args->start_from,
                      "Start from a tuned model's values, or a checkpoint's (tuningJobs/JOB/checkpoints/STEP), of the "
                      "same method, base model and shape");
  command->add_flag("--dpo", args->dpo, "Direct preference optimisation, on rows of prompt, chosen and rejected");
  args->dpo_options = {
      command->add_option("--dpo-beta", args->dpo_beta, "Smaller goes farther from the reference (default: 0.1)"),
      command->add_option("--dpo-label-smoothing", args->dpo_label_smoothing,
                          "Share of pairs thought to be labelled wrongly, 0 to below 0.5 (default: 0)")};
  command->add_option("--teacher", args->teacher, "Distillation: learn this model's probabilities, too");
  args->distillation_options = {
      command->add_option("--teacher-top-k", args->teacher_top_k, "Its likeliest tokens, 1 to 1024 (default: 16)"),
      command->add_option("--distillation-weight", args->distillation_weight,
                          "Of the teacher's part of the loss, 0 to 1 (default: 0.5)"),
      command->add_option("--distillation-temperature", args->distillation_temperature,
                          "Of both models' probabilities in it (default: 1)")};
}

void AddTrainingOptions(CLI::App* command, TuneArgs* args) {
  // Options added from here on are listed under this heading.
  command->option_defaults()->group("Training (unset options take the method's proven default)");
  command->add_option("--epochs", args->epochs, "Passes over the data; fractions allowed");
  command->add_option("--max-steps", args->max_steps, "Optimizer steps in all; overrides --epochs");
  command->add_option("--batch-size", args->batch_size, "Examples per optimizer step, 1 to 4096");
  command->add_option("--learning-rate", args->learning_rate, "Peak learning rate");
  command->add_option("--learning-rate-multiplier", args->learning_rate_multiplier, "Multiplies the default rate");
  command->add_option("--schedule", args->schedule, "cosine, linear or constant (default: cosine)")
      ->check(CLI::IsMember({"cosine", "linear", "constant"}));
  command->add_option("--warmup-ratio", args->warmup_ratio, "Share of the steps that warm up (default: 0.05)");
  command->add_option("--weight-decay", args->weight_decay, "AdamW's weight decay (default: 0 for adapters, 0.01 else)");
  command->add_option("--max-grad-norm", args->max_grad_norm, "Clip the gradient's norm; 0: do not (default: 1)");
  command->add_option("--adam-beta1", args->adam_beta1, "AdamW's first moment decay (default: 0.9)");
  command->add_option("--adam-beta2", args->adam_beta2, "AdamW's second moment decay (default: 0.999)");
  command->add_option("--adam-epsilon", args->adam_epsilon, "AdamW's epsilon (default: 1e-8)");
  command->add_option("--micro-batch-tokens", args->micro_batch_tokens, "Tokens per forward and backward pass");
  command->add_option("--eval-steps", args->eval_steps, "Evaluate every N steps; negative: only at the end");
  command->add_option("--patience", args->patience, "Stop after N evaluations without a better loss (default: never)");
  command->add_flag("--no-keep-best", args->no_keep_best, "Publish the last weights, not those of the best evaluation");
  command->add_option("--checkpoint-steps", args->checkpoint_steps, "Save a checkpoint every N steps");
  command->add_option("--max-checkpoints", args->max_checkpoints, "Checkpoints to keep (default: 2)");
  command->add_option("--seed", args->seed, "Start values, data order and dropout come from it (default: 42)");
  command->add_option("--precision", args->precision, "auto, float32 or bfloat16 (default: auto)")
      ->check(CLI::IsMember({"auto", "float32", "bfloat16"}));
  command->add_option("--quantize", args->quantization,
                      "Keep the frozen base model in int8 or nf4 (QLoRA) while an adapter trains (default: none)")
      ->check(CLI::IsMember({"none", "int8", "nf4"}));
  command->add_option("--optimizer-state", args->optimizer_state, "AdamW's moments: float32 or int8 (default: float32)")
      ->check(CLI::IsMember({"float32", "int8"}));
  command->add_option("--neftune-alpha", args->neftune_alpha,
                      "NEFTune: noise on the embedded input while training, e.g. 5 (default: 0, none)");
}

void AddDataOptions(CLI::App* command, TuneArgs* args) {
  command->option_defaults()->group("Data: how rows become training text");
  command->add_option("--template", args->prompt_template, "Prompt template (default: the dataset's); \\n, \\t, @FILE");
  command->add_option("--completion-template", args->completion_template, "Answer template (default: the dataset's)");
  command->add_option("--max-tokens", args->max_tokens, "Longest example in tokens; prompts are cut, never answers");
  command->add_option("--validation-fraction", args->validation_fraction,
                    "Share of the rows held out, 0 to 0.5; negative: none (default: 0.1)");
  command->add_flag("--train-on-prompt", args->train_on_prompt, "Also learn to produce the prompt");
  command->add_flag("--split-long-texts", args->split_long_texts,
                    "Plain text: make several examples of what is longer than --max-tokens, instead of cutting it");
}

// `known`: what the option may name.
absl::Status AddModule(const char* option, const char* known, const std::string& name,
                       google::protobuf::RepeatedField<int>* modules) {
  v1::TargetModule module;
  if (!v1::TargetModule_Parse(absl::AsciiStrToUpper(name), &module) || module == v1::TARGET_MODULE_UNSPECIFIED) {
    return UsageError(absl::StrCat(option, ": '", name, "' is none of ", known));
  }
  modules->Add(module);
  return absl::OkStatus();
}

// `tuning`: a method's message.
template <typename Tuning>
absl::Status SetTargets(const TuneArgs& args, Tuning* tuning) {
  for (const std::string& target : args.targets) {
    if (target == "all-linear") {
      for (int module = v1::Q_PROJ; module <= v1::DOWN_PROJ; ++module) tuning->mutable_target_modules()->Add(module);
      continue;
    }
    ATTUNE_RETURN_IF_ERROR(AddModule("--targets", "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, embed_tokens, lm_head", target, tuning->mutable_target_modules()));
  }
  return absl::OkStatus();
}

absl::Status SetLora(const TuneArgs& args, v1::LoraTuning* lora) {
  lora->set_rank(args.rank);
  lora->set_alpha(args.alpha);
  if (args.dropout) lora->set_dropout(*args.dropout);
  lora->set_use_rslora(args.rslora);
  lora->set_learning_rate_ratio(args.learning_rate_ratio);
  lora->set_use_dora(args.dora);
  for (const std::string& module : args.modules_to_save) {
    ATTUNE_RETURN_IF_ERROR(AddModule("--modules-to-save", "embed_tokens, lm_head", module, lora->mutable_modules_to_save()));
  }
  return SetTargets(args, lora);
}

// Of a soft prompt or a prefix.
template <typename Tuning>
void SetVirtualTokens(const TuneArgs& args, Tuning* tuning) {
  tuning->set_num_virtual_tokens(args.virtual_tokens);
  tuning->set_init_text(Unescape(args.init_text));
  if (args.init == "vocab") tuning->set_init(v1::SoftPromptTuning::SAMPLE_VOCAB);
  if (args.init == "text") tuning->set_init(v1::SoftPromptTuning::TEXT);
  if (args.init == "random") tuning->set_init(v1::SoftPromptTuning::RANDOM);
}

void SetPartial(const TuneArgs& args, v1::PartialTuning* partial) {
  partial->set_last_layers(args.last_layers);
  for (const std::string& pattern : args.parameters) partial->add_parameter_patterns(pattern);
  partial->set_biases_and_norms(args.biases_and_norms);
}

absl::Status SetTextPrompt(const TuneArgs& args, v1::TextPromptSearch* search) {
  for (const std::string& instruction : args.instructions) {
    ATTUNE_ASSIGN_OR_RETURN(*search->add_instructions(), ReadTemplate(instruction));
  }
  if (args.max_examples) search->set_max_examples(*args.max_examples);
  if (args.example_selection == "label-coverage") search->set_example_selection(v1::TextPromptSearch::LABEL_COVERAGE);
  if (args.example_selection == "diverse") search->set_example_selection(v1::TextPromptSearch::DIVERSE);
  if (args.example_selection == "similar") search->set_example_selection(v1::TextPromptSearch::SIMILAR);
  search->set_candidates(args.candidates);
  search->set_rounds(args.rounds);
  if (args.metric == "label-accuracy") search->set_metric(v1::TextPromptSearch::LABEL_ACCURACY);
  if (args.metric == "exact-match") search->set_metric(v1::TextPromptSearch::EXACT_MATCH);
  if (args.metric == "loss") search->set_metric(v1::TextPromptSearch::LOSS);
  if (!args.calibrate.empty()) search->set_calibrate(args.calibrate == "on");
  search->set_max_calls(args.max_calls);
  search->set_max_tokens(args.max_model_tokens);
  search->set_max_minutes(args.max_minutes);
  return absl::OkStatus();
}

absl::Status SetMethod(const TuneArgs& args, v1::TuningJob* job) {
  for (const auto& [option, methods] : args.method_options) {
    if (option->count() == 0 || std::find(methods.begin(), methods.end(), args.method) != methods.end()) continue;
    return UsageError(absl::StrCat(option->get_name(), " goes with --method ", absl::StrJoin(methods, " or "), ", not ",
                                   args.method));
  }
  if (args.method == "lora") return SetLora(args, job->mutable_lora());
  if (args.method == "text-prompt") return SetTextPrompt(args, job->mutable_text_prompt());
  if (args.method == "ia3") return SetTargets(args, job->mutable_ia3());
  if (args.method == "soft-prompt") SetVirtualTokens(args, job->mutable_soft_prompt());
  if (args.method == "prefix") SetVirtualTokens(args, job->mutable_prefix());
  if (args.method == "partial") SetPartial(args, job->mutable_partial());
  if (args.method == "full") job->mutable_full();
  return absl::OkStatus();
}

void SetHyperparameters(const TuneArgs& args, v1::Hyperparameters* h) {
  h->set_epochs(args.epochs);
  h->set_max_steps(args.max_steps);
  h->set_batch_size(args.batch_size);
  h->set_learning_rate(args.learning_rate);
  h->set_learning_rate_multiplier(args.learning_rate_multiplier);
  v1::LearningRateSchedule schedule;
  if (v1::LearningRateSchedule_Parse(absl::AsciiStrToUpper(args.schedule), &schedule)) h->set_schedule(schedule);
  if (args.warmup_ratio) h->set_warmup_ratio(*args.warmup_ratio);
  if (args.weight_decay) h->set_weight_decay(*args.weight_decay);
  if (args.max_grad_norm) h->set_max_gradient_norm(*args.max_grad_norm);
  if (args.adam_beta1) h->set_adam_beta1(*args.adam_beta1);
  if (args.adam_beta2) h->set_adam_beta2(*args.adam_beta2);
  if (args.adam_epsilon) h->set_adam_epsilon(*args.adam_epsilon);
  h->set_micro_batch_tokens(args.micro_batch_tokens);
  h->set_evaluation_steps(args.eval_steps);
  h->set_early_stopping_patience(args.patience);
  if (args.no_keep_best) h->set_keep_best(false);
  h->set_checkpoint_steps(args.checkpoint_steps);
  h->set_max_checkpoints(args.max_checkpoints);
  if (args.seed) h->set_seed(*args.seed);
  h->set_precision(args.precision);
  h->set_quantization(args.quantization);
  h->set_optimizer_state(args.optimizer_state);
  h->set_neftune_noise_alpha(args.neftune_alpha);
}

absl::Status SetStartAndObjective(const TuneArgs& args, v1::TuningJob* job) {
  // A checkpoint is named in full.
  const bool is_checkpoint = absl::StartsWith(args.start_from, absl::StrCat(kTuningJobs, "/"));
  job->set_start_from(is_checkpoint ? args.start_from : FullName(kModels, args.start_from));
  auto refuse = [](const std::vector<CLI::Option*>& options, const char* needed) -> absl::Status {
    for (const CLI::Option* option : options) {
      if (option->count() > 0) return UsageError(absl::StrCat(option->get_name(), " goes with ", needed));
    }
    return absl::OkStatus();
  };
  if (!args.dpo) ATTUNE_RETURN_IF_ERROR(refuse(args.dpo_options, "--dpo"));
  if (args.teacher.empty()) ATTUNE_RETURN_IF_ERROR(refuse(args.distillation_options, "--teacher"));
  if (args.dpo && !args.teacher.empty()) return UsageError("--dpo and --teacher exclude each other");
  if (args.dpo) {
    job->mutable_dpo()->set_beta(args.dpo_beta);
    job->mutable_dpo()->set_label_smoothing(args.dpo_label_smoothing);
  }
  if (args.teacher.empty()) return absl::OkStatus();
  v1::Distillation& distillation = *job->mutable_distillation();
  distillation.set_teacher(FullName(kModels, args.teacher));
  distillation.set_top_k(args.teacher_top_k);
  distillation.set_temperature(args.distillation_temperature);
  if (args.distillation_weight) distillation.set_weight(*args.distillation_weight);
  return absl::OkStatus();
}

absl::StatusOr<v1::TuningJob> MakeJob(const TuneArgs& args) {
  v1::TuningJob job;
  job.set_base_model(FullName(kModels, args.base));
  job.set_dataset(FullName(kDatasets, args.data));
  job.set_validation_dataset(FullName(kDatasets, args.validation));
  job.set_display_name(args.display_name);
  job.set_tuned_model_id(BareName(args.output));
  job.set_priority(args.priority);
  job.set_tenant(args.tenant);
  ATTUNE_ASSIGN_OR_RETURN(auto labels, ParsePairs(args.labels, "--label"));
  for (const auto& [key, value] : labels) (*job.mutable_labels())[key] = value;
  ATTUNE_RETURN_IF_ERROR(SetMethod(args, &job));
  ATTUNE_RETURN_IF_ERROR(SetStartAndObjective(args, &job));
  SetHyperparameters(args, job.mutable_hyperparameters());
  v1::DataOptions& data = *job.mutable_data();
  ATTUNE_ASSIGN_OR_RETURN(*data.mutable_prompt_template(), ReadTemplate(args.prompt_template));
  ATTUNE_ASSIGN_OR_RETURN(*data.mutable_completion_template(), ReadTemplate(args.completion_template));
  data.set_train_on_prompt(args.train_on_prompt);
  data.set_split_long_texts(args.split_long_texts);
  data.set_max_sequence_tokens(args.max_tokens);
  data.set_validation_fraction(args.validation_fraction);
  return job;
}

absl::StatusOr<int> Estimate(Context* context, Client* client, v1::TuningJob job) {
  v1::EstimateTuningJobRequest request;
  *request.mutable_tuning_job() = std::move(job);
  ATTUNE_ASSIGN_OR_RETURN(v1::EstimateTuningJobResponse estimate, client->EstimateTuningJob(request));
  context->json ? PrintJson(context->out, estimate) : PrintEstimate(context->out, estimate);
  return kExitOk;
}

absl::StatusOr<int> Tune(Context* context, const TuneArgs& args) {
  ATTUNE_ASSIGN_OR_RETURN(v1::TuningJob job, MakeJob(args));
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  if (args.estimate) return Estimate(context, client, std::move(job));
  v1::CreateTuningJobRequest request;
  *request.mutable_tuning_job() = std::move(job);
  request.set_tuning_job_id(BareName(args.name));
  ATTUNE_ASSIGN_OR_RETURN(v1::TuningJob created, client->CreateTuningJob(request));
  if (context->json) {
    // With --watch the job is the first of the stream's lines.
    args.watch ? PrintJsonLine(context->out, created) : PrintJson(context->out, created);
  } else {
    context->out << "queued " << created.name() << ": " << DescribeMethod(created) << " of " << created.base_model()
                 << " on " << created.dataset() << "\n";
  }
  if (args.watch) return WatchJob(context, created.name(), 0);
  if (!context->json) context->out << "Watch it with: attune jobs watch " << BareName(created.name()) << "\n";
  return kExitOk;
}

}  // namespace

void AddTuneCommand(CLI::App* app, Context* context) {
  auto args = std::make_shared<TuneArgs>();
  CLI::App* command = app->add_subcommand("tune", "Queue a tuning job: one method on one base model and one dataset");
  command->add_option("--base", args->base, "Base model")->required();
  command->add_option("--data", args->data, "Training dataset")->required();
  command->add_option("--validation", args->validation, "Validation dataset (default: rows are held out)");
  command->add_option("--method", args->method, "lora, ia3, soft-prompt, prefix, text-prompt, full or partial")
      ->required()
      ->check(CLI::IsMember({"lora", "ia3", "soft-prompt", "prefix", "text-prompt", "full", "partial"}));
  command->add_option("--name", args->name, "Id of the job (default: made by the server)");
  command->add_option("--display-name", args->display_name, "Name for people");
  command->add_option("--output", args->output, "Id of the tuned model (default: from base, method and job)");
  command->add_option("--priority", args->priority, "Higher runs first, -100 to 100 (default: 0)");
  command->add_option("--tenant", args->tenant, "Who pays; tenants share the device fairly (default: default)");
  AddRepeated(command, "--label", args->labels, "Label as key=value; may be repeated");
  CLI::Option* watch = command->add_flag("--watch", args->watch, "Follow the job until it ends; Ctrl-C detaches");
  command->add_flag("--estimate", args->estimate, "Only say what the job would need: memory, steps, time")
      ->excludes(watch);
  AddMethodOptions(command, args.get());
  AddSearchOptions(command, args.get());
  AddObjectiveOptions(command, args.get());
  AddTrainingOptions(command, args.get());
  AddDataOptions(command, args.get());
  command->callback([context, args] { context->action = [context, args] { return Tune(context, *args); }; });
}

}  // namespace attune::cli

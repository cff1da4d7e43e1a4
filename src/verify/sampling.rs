//! The parameters of a draw as the grid sends them.

use xdc_grid_exact::sampler::{LogitBias, SamplerError, SamplerParams, TextForm};

use crate::protocol::wire;

/// What a peer that does not know a field leaves at zero means "off". A form that this version does not know is refused.
impl TryFrom<&wire::Sampling> for SamplerParams {
    type Error = SamplerError;

    fn try_from(sampling: &wire::Sampling) -> Result<Self, SamplerError> {
        let schema = &sampling.json_schema;
        let form = match (sampling.form, schema.is_empty()) {
            (0, true) => TextForm::Free,
            (1, true) => TextForm::JsonObject,
            (2, false) => TextForm::JsonSchema(schema.clone()),
            (form, _) => return Err(SamplerError::Form(form)),
        };
        let params = SamplerParams {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            repetition_penalty: if sampling.repetition_penalty == 0.0 { 1.0 } else { sampling.repetition_penalty },
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            logit_bias: sampling.logit_bias.iter().map(|entry| LogitBias { id: entry.id, bias: entry.bias }).collect(),
            form,
        };
        params.validate()?;
        Ok(params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WARM: SamplerParams = SamplerParams::new(1.0, 0.5, 0);

    #[test]
    fn what_an_old_peer_leaves_out_is_off_and_an_unknown_form_is_refused() {
        let old = wire::Sampling { temperature: 1.0, top_p: 0.5, ..Default::default() };
        assert_eq!(SamplerParams::try_from(&old), Ok(WARM));
        for (form, schema) in [(3, ""), (1, "{}"), (2, ""), (0, "{}")] {
            let new = wire::Sampling { form, json_schema: schema.into(), ..old.clone() };
            assert!(matches!(SamplerParams::try_from(&new), Err(SamplerError::Form(_))), "{form} {schema}");
        }
        assert!(SamplerParams::try_from(&wire::Sampling { min_p: 2.0, ..old }).is_err());
    }
}
